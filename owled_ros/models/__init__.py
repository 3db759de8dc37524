"""Load Hugging Face models and artifacts, find their parts, and run them."""
