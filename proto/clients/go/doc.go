// Package fdbroker is a member of fd-broker: a server that is replaced by its next version, in any language, without refusing, failing
// or closing one connection.
//
// The package speaks the protocol that docs/protocol.md describes, with a daemon (fd-broker serve) as the holder. Linux, the standard library alone.
//
//	member, err := fdbroker.Join(ctx, "/run/shop/daemon.sock", "shop", fdbroker.Options{})
//	prices, err := fdbroker.OpenSection(member, "prices", fdbroker.JSON[Price](), fdbroker.Schema{})
//	web, err := member.Listen(ctx, "web", "tcp://0.0.0.0:8080")
//	server := &http.Server{Handler: handler}
//	drain := fdbhttp.Attach(member, server)
//	go drain.Serve(web)
//	err = member.Ready(ctx) // the commit: if it fails, the previous version keeps serving
//	<-member.Retired()      // another serves, for good
//	drain.Wait(limit)       // the last connection has ended
//	member.Close()
//
// A descriptor has one owner, and is close-on-exec from birth. Every error that has a code is an [*Error]; the codes are those of docs/errors.md.
package fdbroker
