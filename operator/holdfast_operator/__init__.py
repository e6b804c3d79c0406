"""The Kubernetes operator: keeps pods and the rendezvous of every `ElasticJob` as its spec wants them."""
