module github.com/latchkey-dev/latchkey/test/cluster/parts/pause

go 1.26.0
