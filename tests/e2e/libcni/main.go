// Attach drives plugins through libcni, as cnitool does, with port mappings as a runtime gives them.
//
//	attach add|check|del CONFLIST PLUGIN-DIR ID NETNS [PORT-MAPPINGS]    an ADD prints its result
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/containernetworking/cni/libcni"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "attach:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) < 6 {
		return fmt.Errorf("usage: attach add|check|del CONFLIST PLUGIN-DIR ID NETNS [PORT-MAPPINGS]")
	}
	list, err := libcni.ConfListFromFile(os.Args[2])
	if err != nil {
		return err
	}
	cni := libcni.NewCNIConfig([]string{os.Args[3]}, nil)
	attachment := &libcni.RuntimeConf{ContainerID: os.Args[4], NetNS: os.Args[5], IfName: "eth0"}
	if len(os.Args) > 6 {
		var mappings []interface{}
		if err := json.Unmarshal([]byte(os.Args[6]), &mappings); err != nil {
			return err
		}
		attachment.CapabilityArgs = map[string]interface{}{"portMappings": mappings}
	}
	ctx := context.Background()
	switch os.Args[1] {
	case "add":
		// What cnitool leaves to its user: the plugins must know the list's version.
		if _, err := cni.ValidateNetworkList(ctx, list); err != nil {
			return err
		}
		result, err := cni.AddNetworkList(ctx, list, attachment)
		if err != nil {
			return err
		}
		return result.Print()
	case "check":
		return cni.CheckNetworkList(ctx, list, attachment)
	case "del":
		return cni.DelNetworkList(ctx, list, attachment)
	}
	return fmt.Errorf("no verb %s", os.Args[1])
}
