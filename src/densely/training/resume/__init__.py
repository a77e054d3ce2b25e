"""How a training that was broken off goes on to the very same weights: whose folder it is, what is kept, and when."""
