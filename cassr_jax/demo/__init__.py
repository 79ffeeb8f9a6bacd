"""A page in the browser on which pictures are restored (the extra `demo`, with Gradio)."""
