package agent

import (
	"net"
	"net/http"
	"net/netip"

	"github.com/gorilla/mux"
)

// localHandler serves the apps of the pod.
func (a *Agent) localHandler() http.Handler {
	l := a.config.Local
	// Vault's paths are not to be redirected to what they are after cleaning.
	r := mux.NewRouter().SkipClean(true)
	r.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "there is nothing at this path (/v1/… is Vault's API, where the proxy is on)")
	})
	if l.Quit {
		// The second is where Vault Agent has it.
		for _, path := range []string{"/quit", "/agent/v1/quit"} {
			r.HandleFunc(path, a.quit).Methods(http.MethodPost)
		}
	}
	if l.Proxy != nil {
		r.PathPrefix("/v1/").Handler(newProxy(a))
	}
	if l.Listen == "" {
		return r
	}
	return loopbackOnly(r)
}

// quit ends the agent as SIGTERM does.
func (a *Agent) quit(w http.ResponseWriter, _ *http.Request) {
	a.log.Info("asked to quit")
	w.WriteHeader(http.StatusNoContent)
	a.ops.quit()
}

// loopbackOnly refuses requests of web pages, which a browser in the pod may
// show: those that were meant for another host, since a name that leads to the
// loopback address for once (DNS rebinding) makes the page one of this host, and
// those that a browser marks as a page's (Origin of the Fetch standard,
// Sec-Fetch-Site of Fetch Metadata): to end the agent a page needs no answer, and
// one of Vault's it could read where Vault lets pages (sys/config/cors).
func loopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		ip, err := netip.ParseAddr(host)
		if host != "localhost" && (err != nil || !ip.Unmap().IsLoopback()) {
			refuse(w, http.StatusForbidden, "the request is for another host (127.0.0.1, [::1] or localhost)")
			return
		}
		if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
			refuse(w, http.StatusForbidden, "the request is a web page's (a program's, without Origin and Sec-Fetch-Site)")
			return
		}
		next.ServeHTTP(w, r)
	})
}
