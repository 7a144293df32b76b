"""Names of settings of training software, by what they bear on."""
