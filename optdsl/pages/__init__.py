"""Pages of results: claims with verdicts, figures, tables, and the HTML file that shows them."""
