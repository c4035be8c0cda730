// Checks what the cluster and Grafana would only find when it is too late: each Kubernetes manifest of a
// stream is decoded strictly by the types of Kubernetes itself, so that an unknown field, kind or value of the
// wrong type fails; each dashboard by the types of Grafana's own library.
//
//	manifests kubernetes <MANIFESTS      prints KIND/NAME of each, in order
//	manifests dashboard FILE...          prints the title of each
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 1 && arguments[0] == "kubernetes":
		return kubernetes(os.Stdin)
	case len(arguments) > 1 && arguments[0] == "dashboard":
		return dashboards(arguments[1:])
	}
	return errors.New("usage: manifests kubernetes <MANIFESTS, or manifests dashboard FILE...")
}

func kubernetes(stream io.Reader) error {
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewYAMLReader(bufio.NewReader(stream))
	count := 0
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if isEmpty(document) {
			continue
		}
		object, kind, err := decoder.Decode(document, nil, nil)
		if err != nil {
			return err
		}
		named, err := meta.Accessor(object)
		if err != nil {
			return err
		}
		fmt.Printf("%s/%s\n", kind.Kind, named.GetName())
		count++
	}
	if count == 0 {
		return errors.New("there is no manifest on standard input")
	}
	return nil
}

// isEmpty tells whether a document is nothing but comments.
func isEmpty(document []byte) bool {
	for _, line := range bytes.Split(document, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

func dashboards(files []string) error {
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var shown dashboard.Dashboard
		if err := json.Unmarshal(text, &shown); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, err := range []error{shown.UnmarshalJSONStrict(text), shown.Validate()} {
			// The library answers an empty list where nothing is wrong.
			if err != nil && err.Error() != "" {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
		fmt.Println(*shown.Title)
	}
	return nil
}
