//go:build linux

// Command shop is a server that is replaced by its next version: start fd-broker serve, then this program twice.
//
//	fd-broker serve --control /run/shop/daemon.sock &
//	go run ./examples/shop --control /run/shop/daemon.sock --listen tcp://127.0.0.1:8080 &
//	go run ./examples/shop --control /run/shop/daemon.sock --listen tcp://127.0.0.1:8080    # the first one ends
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	fdbroker "fd-broker.invalid/owner/fd-broker/proto/clients/go"
	"fd-broker.invalid/owner/fd-broker/proto/clients/go/fdbhttp"
)

type price struct {
	Cents int `json:"cents"`
}

func main() {
	control := flag.String("control", "/run/shop/daemon.sock", "the control socket of fd-broker serve")
	listen := flag.String("listen", "tcp://127.0.0.1:8080", "where to listen")
	flag.Parse()
	if err := run(*control, *listen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(control, listen string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	member, err := fdbroker.Join(ctx, control, "shop", fdbroker.Options{Logger: slog.Default()})
	if err != nil {
		return err
	}
	defer member.Close()
	prices, err := fdbroker.OpenSection(member, "prices", fdbroker.JSON[price](), fdbroker.Schema{})
	if err != nil {
		return err
	}
	if member.First() {
		if err := prices.Put(ctx, "apple", price{Cents: 50}); err != nil {
			return err
		}
	}
	web, err := member.Listen(ctx, "web", listen)
	if err != nil {
		return err
	}
	drain := fdbhttp.Attach(member, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		apple, _, err := prices.Get("apple")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "an apple is %d cents, says generation %d\n", apple.Cents, member.Generation())
	})})
	go drain.Serve(web)
	if err := member.Ready(ctx); err != nil {
		return err
	}
	select {
	case <-member.Retired():
	case <-ctx.Done():
		// No successor takes over: the daemon keeps the listener, and new clients wait for the next version.
		member.Leave()
		<-member.Retired()
	}
	limit, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := drain.Wait(limit); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
