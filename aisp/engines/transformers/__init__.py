"""The engine in this process: any transformers causal language model whose head can be split off."""
