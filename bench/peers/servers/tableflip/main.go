// The pages of pages.mjs in Go, with tableflip as its README shows it: SIGHUP upgrades, and the process before ends when its
// connections have ended, or after 10 s.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cloudflare/tableflip"
)

const limit = 10 * time.Second

func mixed(a, b uint32) uint32 {
	state := (a^0x9e3779b9)*0x85ebca6b ^ (b+1)*0xc2b2ae35
	state ^= state >> 15
	state *= 0x2c1b3ce5
	return state ^ state>>13
}

func eventText(id string, number uint32) string {
	n, _ := strconv.ParseUint(id, 10, 32)
	return fmt.Sprintf("id: %d\ndata: %s %s\n\n", number, id, strings.Repeat("x", int(mixed(uint32(n), number)%200)))
}

func answer(w http.ResponseWriter, r *http.Request) {
	parts := append(strings.Split(r.URL.Path, "/"), "", "", "")
	page, id, number := parts[1], parts[2], parts[3]
	w.Header().Set("X-Gen", strconv.Itoa(os.Getpid()))
	switch page {
	case "slow":
		ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
		time.Sleep(time.Duration(ms) * time.Millisecond)
		fmt.Fprintf(w, "%s slow but sure\n", id)
	case "events":
		every, _ := strconv.Atoi(r.URL.Query().Get("every"))
		w.Header().Set("Content-Type", "text/event-stream")
		for event := uint32(0); ; event++ {
			if _, err := fmt.Fprint(w, eventText(id, event)); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(time.Duration(every) * time.Millisecond):
			}
		}
	case "n":
		fmt.Fprintf(w, "%s %s\n", id, number)
	default:
		fmt.Fprint(w, "ok\n")
	}
}

func main() {
	upgrader, err := tableflip.New(tableflip.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer upgrader.Stop()
	go func() {
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP)
		for range hup {
			if err := upgrader.Upgrade(); err != nil {
				log.Println("upgrade failed:", err)
			}
		}
	}()
	listener, err := upgrader.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(answer)}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	if err := upgrader.Ready(); err != nil {
		log.Fatal(err)
	}
	<-upgrader.Exit()
	ends, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if server.Shutdown(ends) != nil {
		server.Close()
	}
}
