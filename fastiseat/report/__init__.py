"""Reading finished and running runs, and drawing them."""
