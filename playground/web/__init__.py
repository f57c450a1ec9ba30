"""The web app. Gradio is imported here and in app.py only."""
