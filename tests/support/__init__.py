"""What tests and benches need beside the product: engines without a cluster, the demo's makers."""
