"""Commands of the command line, one module each; each calls a public Python function."""
