"""The store on etcd. This package's modules, apart from `tls`, need the extra `etcd` and import its client.

What is used of aetcd is `aetcd.rpc`: etcd's messages and stubs over grpc.aio. Its `Client` knows one endpoint, no TLS,
no compare by lease and no token that ends, and forgets where its watches were.
"""
