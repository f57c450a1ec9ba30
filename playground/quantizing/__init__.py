"""Making files: quantizing, importance matrices, recipes, sensitivity scans."""
