// Command dbapp is what runs beside the agent in the tests of database
// credentials: an app that opens a session as the user whom a file names, keeps
// it open, and opens another one whenever it is told that the file has changed.
// It prints when each session begins and ends.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	credentials = "/vault/secrets/db.env"
	listen      = "127.0.0.1:8080"
	// each is how often a session is used; patience how long an answer may take.
	each     = 300 * time.Millisecond
	patience = 30 * time.Second
)

func main() {
	address := flag.String("database", "", "host:port of PostgreSQL")
	once := flag.Bool("once", false, "open one session, use it once, and end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	a := &app{address: *address}
	if err := a.open(ctx); err != nil {
		say("%v", err)
		os.Exit(1)
	}
	if *once {
		return
	}
	http.HandleFunc("POST /reload", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.open(ctx); err != nil {
			say("%v", err)
			http.Error(w, "no session", http.StatusInternalServerError)
		}
	})
	go func() {
		say("%v", http.ListenAndServe(listen, nil))
		os.Exit(1)
	}()
	for tick := time.Tick(each); ; {
		select {
		case <-tick:
			a.use(ctx)
		case <-ctx.Done():
			return
		}
	}
}

type app struct {
	address string

	mu       sync.Mutex
	sessions []session
}

type session struct {
	user string
	conn *pgx.Conn
}

// open opens a session as the user whom the file now names.
func (a *app) open(ctx context.Context) error {
	data, err := os.ReadFile(credentials)
	if err != nil {
		return err
	}
	values := make(map[string]string)
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[key] = strings.Trim(value, "'")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	config, err := pgx.ParseConfig("postgres://" + a.address + "/postgres?sslmode=disable")
	if err != nil {
		return err
	}
	config.User, config.Password = values["username"], values["password"]
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sessions = append(a.sessions, session{config.User, conn})
	say("session of %s begins", config.User)
	return nil
}

// use uses each session, and drops those that have ended.
func (a *app) use(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var left []session
	for _, s := range a.sessions {
		if _, err := s.conn.Exec(ctx, "select 1"); err != nil {
			say("session of %s ends: %v", s.user, err)
			continue
		}
		left = append(left, s)
	}
	a.sessions = left
}

func say(format string, args ...any) {
	fmt.Printf(time.Now().UTC().Format(time.RFC3339Nano)+" "+format+"\n", args...)
}
