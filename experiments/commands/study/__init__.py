"""Commands that check parplan or fit its constants: validate, reproduce, benchmark, hardware."""
