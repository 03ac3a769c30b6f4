// The story of ../story.mjs told by github.com/go-stomp/stomp.
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-stomp/stomp/v3"
	"github.com/go-stomp/stomp/v3/frame"
)

const (
	large    = 40_000
	patience = 25 * time.Second
	// Beats are sent and expected every 10 s, and the client says nothing of them.
	beats = 11 * time.Second
)

func main() {
	log.SetFlags(0)
	origin()
	address := os.Getenv("RELAY_HOST") + ":" + os.Getenv("RELAY_PORT")
	conn, err := stomp.Dial("tcp", address,
		stomp.ConnOpt.Login("guest", "guest"),
		stomp.ConnOpt.HeartBeat(10*time.Second, 10*time.Second))
	must(err)
	play(conn)
}

// origin prints lines for the head of the recording.
func origin() {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if strings.HasPrefix(module.Path, "github.com/go-stomp/stomp") {
			fmt.Printf("@client %s\n@version %s\n", module.Path, strings.TrimPrefix(module.Version, "v"))
		}
	}
	fmt.Println("@registry Go module proxy")
	fmt.Printf("@runtime %s\n", runtime.Version())
}

func play(conn *stomp.Conn) {
	story := os.Getenv("STORY")
	topic, queue := "/topic/rec."+story, "/queue/rec-"+story
	news, err := conn.Subscribe(topic, stomp.AckAuto)
	must(err)
	jobs, err := conn.Subscribe(queue, stomp.AckClientIndividual)
	must(err)

	text := "a:b\\ c\nd"
	must(conn.Send(topic, "text/plain", []byte("Grüße, 世界"),
		stomp.SendOpt.Header("x-text", text), stomp.SendOpt.Receipt))
	greeting := next(news)
	check(string(greeting.Body) == "Grüße, 世界", "text")
	check(greeting.Header.Get("x-text") == text, "header")
	binary := []byte{0, 1, 10, 0, 253, 254, 255}
	must(conn.Send(topic, "application/octet-stream", binary, stomp.SendOpt.Receipt))
	check(bytes.Equal(next(news).Body, binary), "binary")

	send(conn, queue, "one")
	must(conn.Ack(next(jobs)))
	send(conn, queue, "two")
	must(conn.Nack(next(jobs)))
	again := next(jobs)
	check(string(again.Body) == "two", "two again")
	must(conn.Ack(again))

	kept := conn.Begin()
	must(kept.Send(queue, "", []byte("three")))
	must(kept.CommitWithReceipt())
	third := next(jobs)
	taken := conn.Begin()
	must(taken.Ack(third))
	must(taken.CommitWithReceipt())
	dropped := conn.Begin()
	must(dropped.Send(queue, "", []byte("never")))
	must(dropped.AbortWithReceipt())

	send(conn, topic, strings.Repeat("x", large))
	check(len(next(news).Body) == large, "large")

	time.Sleep(beats)
	must(jobs.Unsubscribe())
	must(news.Unsubscribe())
	must(conn.Disconnect())
}

func send(conn *stomp.Conn, destination, body string) {
	must(conn.Send(destination, "", []byte(body), stomp.SendOpt.Receipt,
		func(f *frame.Frame) error {
			// An empty content-type is no content-type.
			f.Header.Del(frame.ContentType)
			return nil
		}))
}

func next(from *stomp.Subscription) *stomp.Message {
	select {
	case message := <-from.C:
		must(message.Err)
		return message
	case <-time.After(patience):
		log.Fatal("nothing came: ", from.Destination())
		return nil
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func check(isRight bool, what string) {
	if !isRight {
		log.Fatal("not as sent: ", what)
	}
}
