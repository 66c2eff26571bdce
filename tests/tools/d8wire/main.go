// D8wire pushes to a registry as `d8 mirror push` does, with the library and the version that d8
// has inside, and checks every request that went over the wire.
//
//	d8wire -registry HOST:PORT -ca FILE -rw USER:PASSWORD -ro USER:PASSWORD
//
// It ends with status 1 at the first answer or request that is not as it has to be.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	var target target
	flag.StringVar(&target.registry, "registry", "", "address of the registry, HOST:PORT")
	flag.StringVar(&target.caFile, "ca", "", "file with the certificate authority of the registry")
	flag.StringVar(&target.writer, "rw", "", "USER:PASSWORD that may push and delete")
	flag.StringVar(&target.reader, "ro", "", "USER:PASSWORD that may only pull")
	flag.Parse()
	if flag.NArg() > 0 || target.registry == "" || target.caFile == "" {
		flag.Usage()
		os.Exit(2)
	}
	for _, step := range steps {
		if err := step.run(target); err != nil {
			fmt.Fprintf(os.Stderr, "FAIL %s: %v\n", step.name, err)
			os.Exit(1)
		}
		fmt.Printf("ok %s\n", step.name)
	}
}
