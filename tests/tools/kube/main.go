// Parts of Kubernetes for tests, in one binary: the first argument, or the name it is called by, says which part runs.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	parts := map[string]func() *cobra.Command{
		"kube-apiserver": apiserver.NewAPIServerCommand,
	}
	name := filepath.Base(os.Args[0])
	if _, ok := parts[name]; !ok && len(os.Args) > 1 {
		name, os.Args = os.Args[1], os.Args[1:]
	}
	part, ok := parts[name]
	if !ok {
		fmt.Fprintln(os.Stderr, "which part? ", name)
		os.Exit(2)
	}
	os.Exit(cli.Run(part()))
}
