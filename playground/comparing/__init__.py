"""The main job: one question to several variants, side by side."""
