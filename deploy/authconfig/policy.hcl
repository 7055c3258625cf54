# What authconfig needs to keep auth/kubernetes.

# Is the mount there, of which type, and is it the one that authconfig made?
path "sys/auth" { capabilities = ["read"] }

# Make it.
path "sys/auth/kubernetes" { capabilities = ["update", "sudo"] }

# Its description and the lives of its tokens.
path "sys/mounts/auth/kubernetes/tune" { capabilities = ["update"] }

# Where the API server is, and who reviews tokens.
path "auth/kubernetes/config" { capabilities = ["read", "update"] }

# Which roles are there?
path "auth/kubernetes/role" { capabilities = ["list"] }

# Each of them.
path "auth/kubernetes/role/+" { capabilities = ["create", "read", "update", "delete"] }
