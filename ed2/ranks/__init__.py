"""One run in several processes: who they are, what they tell each other, and sums over all of them."""
