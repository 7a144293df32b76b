"""One page of HTML for the output folder of any command, without a network or a server."""
