"""Mode guidance inside other people's pipelines."""
