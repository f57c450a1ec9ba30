"""The web app. Gradio is imported here only."""
