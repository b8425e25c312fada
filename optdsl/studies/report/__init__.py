"""The report: claims, figures, tables, and the page that shows them."""
