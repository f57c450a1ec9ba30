"""Values to HTML, PNG, Markdown, JSON and Jupyter. No Gradio."""
