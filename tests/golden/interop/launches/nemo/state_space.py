import nemo_run as run


def pretrain_recipe() -> run.Partial:
    return run.Partial(pretrain, model=run.Config(MambaModel, config=run.Config(NemotronHConfig8B)))
