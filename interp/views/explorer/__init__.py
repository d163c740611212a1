"""The explorer: an index of features in the browser. The address is the state: every page is a function of it."""
