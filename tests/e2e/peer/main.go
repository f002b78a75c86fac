// Peer is both ends of a conversation: the server inside a container, and the client that asks it. One static executable, so
// that an image needs nothing else, and so that the suite depends on no tool's idea of when to give up.
//
//	peer serve NAME PORT...       answers every connection and datagram with "NAME <address it saw>"
//	peer ask tcp|udp HOST:PORT    prints the answer; exits with 1 when there is none within two seconds
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const patience = 2 * time.Second

func main() {
	switch {
	case len(os.Args) > 3 && os.Args[1] == "serve":
		serve(os.Args[2], os.Args[3:])
	case len(os.Args) == 4 && os.Args[1] == "ask":
		answer, err := ask(os.Args[2], os.Args[3])
		fail(err)
		fmt.Println(answer)
	default:
		fail(fmt.Errorf("usage: peer serve NAME PORT... | peer ask tcp|udp HOST:PORT"))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

// serve ends at SIGTERM: the first process of a PID namespace ignores what it does not handle.
func serve(name string, ports []string) {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	for _, port := range ports {
		listener, err := net.Listen("tcp", ":"+port)
		fail(err)
		go serveTCP(name, listener)
		// A datagram's answer leaves with the address that the route chooses; that is the container's only one.
		packets, err := net.ListenPacket("udp", ":"+port)
		fail(err)
		go serveUDP(name, packets)
	}
	<-end
}

func serveTCP(name string, listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			continue
		}
		fmt.Fprintf(connection, "%s %s", name, host(connection.RemoteAddr()))
		connection.Close()
	}
}

func serveUDP(name string, packets net.PacketConn) {
	buffer := make([]byte, 64)
	for {
		_, from, err := packets.ReadFrom(buffer)
		if err == nil {
			packets.WriteTo([]byte(fmt.Sprintf("%s %s", name, host(from))), from)
		}
	}
}

// host is the address without port and zone, IPv4 as IPv4 although the socket is one of both families.
func host(address net.Addr) string {
	text, _, err := net.SplitHostPort(address.String())
	if err != nil {
		return address.String()
	}
	if ip := net.ParseIP(text); ip != nil {
		return ip.String()
	}
	return text
}

// ask repeats datagrams, for one may be lost while a neighbour is looked up.
func ask(protocol, to string) (string, error) {
	rounds := 1
	if protocol == "udp" {
		rounds = 4
	}
	var last error
	for ; rounds > 0; rounds-- {
		var answer string
		if answer, last = askOnce(protocol, to, patience/time.Duration(rounds)); last == nil {
			return answer, nil
		}
	}
	return "", last
}

func askOnce(protocol, to string, within time.Duration) (string, error) {
	connection, err := net.DialTimeout(protocol, to, within)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(within))
	if protocol == "tcp" {
		answer, err := io.ReadAll(connection)
		return string(answer), err
	}
	if _, err := connection.Write([]byte("?")); err != nil {
		return "", err
	}
	buffer := make([]byte, 256)
	size, err := connection.Read(buffer)
	return string(buffer[:size]), err
}
