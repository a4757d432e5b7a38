//go:build linux

// Package fdbhttp ends the connections of an [http.Server] as a member of fd-broker should: it announces the end of each on its next answer
// when another serves, and never closes one unasked.
package fdbhttp

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"

	fdbroker "fd-broker.invalid/owner/fd-broker/proto/clients/go"
)

// Drain serves with a server, and counts its connections.
type Drain struct {
	server  *http.Server
	mu      sync.Mutex
	open    map[net.Conn]struct{}
	serving int
	none    chan struct{}
}

// Attach is for a server that serves on listeners of this member. Attach wraps Handler and ConnState.
func Attach(member *fdbroker.Member, server *http.Server) *Drain {
	d := &Drain{server: server, open: map[net.Conn]struct{}{}}
	handler, state := server.Handler, server.ConnState
	if handler == nil {
		handler = http.DefaultServeMux
	}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := &answer{ResponseWriter: w, member: member}
		handler.ServeHTTP(to, r)
		to.begin()
	})
	server.ConnState = func(conn net.Conn, is http.ConnState) {
		d.count(conn, is)
		if state != nil {
			state(conn, is)
		}
	}
	return d
}

// Serve is as that of the server, but returns nil when this process accepts no more on the listener, for good.
func (d *Drain) Serve(listener *fdbroker.Listener) error {
	d.mu.Lock()
	d.serving++
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.serving--
		d.look()
	}()
	err := d.server.Serve(listener)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// look: a connection that was accepted counts before Serve returns.
func (d *Drain) look() {
	if d.none != nil && len(d.open) == 0 && d.serving == 0 {
		close(d.none)
		d.none = nil
	}
}

func (d *Drain) count(conn net.Conn, is http.ConnState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch is {
	case http.StateNew:
		d.open[conn] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(d.open, conn)
		d.look()
	}
}

// Wait, after [fdbroker.Member.Retired], returns when the last connection has ended. When the context ends, all are closed, and its
// error is returned.
func (d *Drain) Wait(ctx context.Context) error {
	d.mu.Lock()
	if d.none == nil {
		d.none = make(chan struct{})
	}
	none := d.none
	d.look()
	d.mu.Unlock()
	defer d.server.Close()
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// answer decides when the head is written: it may be another's turn by then.
type answer struct {
	http.ResponseWriter
	member *fdbroker.Member
	begun  bool
}

func (a *answer) begin() {
	if !a.begun && !a.member.Serving() {
		a.Header().Set("Connection", "close")
	}
	a.begun = true
}

func (a *answer) WriteHeader(status int) {
	if status >= 200 {
		a.begin()
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(data []byte) (int, error) {
	a.begin()
	return a.ResponseWriter.Write(data)
}

// Flush is for handlers that send as they go.
func (a *answer) Flush() {
	a.begin()
	if flusher, ok := a.ResponseWriter.(http.Flusher); ok {
		flusher.Flush()
	}
}

// Hijack hands the connection over: its new owner ends it.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	a.begun = true
	return http.NewResponseController(a.ResponseWriter).Hijack()
}

// Unwrap is for [http.ResponseController].
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
