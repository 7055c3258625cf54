package agent

import (
	"net"
	"sync"
)

// openConnections bounds those that are open for probes and metrics: anybody who
// reaches the pod can open some, and each takes the agent's memory.
const openConnections = 64

// limited is a listener with few connections open at a time. Others wait to be
// accepted.
type limited struct {
	net.Listener
	slots chan struct{}
}

// limit takes what opening a listener gave.
func limit(l net.Listener, err error) (net.Listener, error) {
	if err != nil {
		return nil, err
	}
	return limited{l, make(chan struct{}, openConnections)}, nil
}

func (l limited) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return limitedConn{c, sync.OnceFunc(func() { <-l.slots })}, nil
}

type limitedConn struct {
	net.Conn
	closed func()
}

func (c limitedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}
