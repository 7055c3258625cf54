package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/signal"
	"sort"
	"sync"
	"syscall"
	"time"
)

// The supervisor is the first process of the box's PID, mount and network namespaces. It starts the daemons, reaps the
// dead, and is the box's life: when it is killed, the kernel kills every process in the box, containers included,
// and mounts, links, routes and rules go with the namespaces that nobody holds any more.

// A Command is what the supervisor is asked to start.
type Command struct {
	Name string // of the daemon; its log is log/NAME.log
	Path string
	Args []string // without the path
	Env  []string // nil for the supervisor's
	User uint32   // runs as this UID and GID, if not 0
}

// A Process is what the supervisor knows of a daemon.
type Process struct {
	Name    string
	PID     int // inside the box
	Running bool
	Exit    string // how it ended
}

type supervisor struct {
	box Box

	mu      sync.Mutex
	daemons map[string]*daemon
}

type daemon struct {
	Process
	command Command
	done    chan struct{}
}

// Start starts a daemon, or does nothing if it runs.
func (s *supervisor) Start(c Command, pid *int) error {
	s.mu.Lock() // also holds off the reaper until the daemon is known
	defer s.mu.Unlock()
	if d := s.daemons[c.Name]; d != nil && d.Running {
		*pid = d.PID
		return nil
	}
	log, err := os.OpenFile(s.box.log(c.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	attr := &os.ProcAttr{Dir: "/", Env: c.Env, Files: []*os.File{null, log, log}, Sys: &syscall.SysProcAttr{Setsid: true}}
	if attr.Env == nil {
		attr.Env = os.Environ()
	}
	if c.User != 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: c.User, Gid: c.User}
	}
	p, err := os.StartProcess(c.Path, append([]string{c.Path}, c.Args...), attr)
	if err != nil {
		return fmt.Errorf("starting %s: %w", c.Name, err)
	}
	s.daemons[c.Name] = &daemon{Process: Process{Name: c.Name, PID: p.Pid, Running: true}, command: c, done: make(chan struct{})}
	*pid = p.Pid
	return p.Release() // the reaper waits for it
}

// Restart starts a daemon that has ended once more, as it was started before.
func (s *supervisor) Restart(name string, pid *int) error {
	s.mu.Lock()
	d := s.daemons[name]
	s.mu.Unlock()
	if d == nil {
		return fmt.Errorf("restarting %s: it was never started", name)
	}
	return s.Start(d.command, pid)
}

// A Signal is a request to signal a daemon.
type Signal struct {
	Name   string
	Signal syscall.Signal
	Wait   bool // until it has ended
}

// Signal signals a daemon.
func (s *supervisor) Signal(req Signal, _ *struct{}) error {
	s.mu.Lock()
	d := s.daemons[req.Name]
	if d == nil || !d.Running {
		s.mu.Unlock()
		return fmt.Errorf("signalling %s: it does not run", req.Name)
	}
	err := syscall.Kill(d.PID, req.Signal)
	s.mu.Unlock()
	if err == nil && req.Wait {
		<-d.done
	}
	return err
}

// Forget kills a daemon and forgets it, so that the box is good without it. It is an error if it had ended by itself.
func (s *supervisor) Forget(name string, _ *struct{}) error {
	s.mu.Lock()
	d := s.daemons[name]
	if d == nil {
		s.mu.Unlock()
		return nil
	}
	running, exit := d.Running, d.Exit
	s.mu.Unlock()
	if running {
		if err := s.Signal(Signal{Name: name, Signal: syscall.SIGKILL, Wait: true}, new(struct{})); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.daemons, name)
	if !running {
		return fmt.Errorf("%s had %s", name, exit)
	}
	return nil
}

// Processes lists the daemons that were started, by name.
func (s *supervisor) Processes(_ struct{}, list *[]Process) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.daemons {
		*list = append(*list, d.Process)
	}
	sort.Slice(*list, func(i, j int) bool { return (*list)[i].Name < (*list)[j].Name })
	return nil
}

// reap waits for children and for the orphans of the PID namespace, which are given to its first process, until ctx ends.
func (s *supervisor) reap(ctx context.Context) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	defer signal.Stop(children)
	for {
		for s.reapOne() {
		}
		select {
		case <-children:
		case <-ctx.Done():
			return
		}
	}
}

func (s *supervisor) reapOne() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if errors.Is(err, syscall.EINTR) {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	for _, d := range s.daemons {
		if d.PID == pid && d.Running {
			d.Running = false
			d.Exit = fmt.Sprintf("ended with exit code %d", status.ExitStatus())
			if status.Signaled() {
				d.Exit = fmt.Sprintf("ended by signal %d (%s)", int(status.Signal()), status.Signal())
			}
			close(d.done)
		}
	}
	return true
}

// RunInit is the main function of the supervisor. `up` starts it in fresh namespaces, in the cgroup of the box, and
// writes one byte to its file descriptor 3 when the box's record is on disk; without that byte it goes away again.
func RunInit(dir string) error {
	b := Box{dir}
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	if n, err := os.NewFile(3, "go-ahead").Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("waiting for the word of `up`: %w", err)
	}
	if err := enterMounts(b); err != nil {
		return err
	}
	if err := makeNetwork(); err != nil {
		return err
	}
	os.Remove(b.controlSocket())
	listener, err := net.Listen("unix", b.controlSocket())
	if err != nil {
		return err
	}
	s := &supervisor{box: b, daemons: map[string]*daemon{}}
	server := rpc.NewServer()
	if err := server.RegisterName("Box", s); err != nil {
		return err
	}
	go s.reap(context.Background())
	server.Accept(listener)
	return nil
}

// supervisor calls one method of the box's supervisor.
func (b Box) supervisor(method string, args, reply any) error {
	conn, err := net.DialTimeout("unix", b.controlSocket(), 5*time.Second)
	if err != nil {
		return fmt.Errorf("reaching the box's first process: %w", err)
	}
	client := rpc.NewClient(conn)
	defer client.Close()
	return client.Call("Box."+method, args, reply)
}
