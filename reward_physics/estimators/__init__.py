"""Networks that look at pixels: flow, depth and segmentation."""
