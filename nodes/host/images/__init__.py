"""Pictures, as the stock sampler draws them."""
