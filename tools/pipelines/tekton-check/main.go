// Command tekton-check decodes manifests strictly into Tekton's own types and runs the validation of Tekton's admission
// webhook on them. It prints one line for each problem and exits 1 if there is any, 66 for a file that cannot be read.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1"
	"github.com/tektoncd/pipeline/pkg/apis/pipeline/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"knative.dev/pkg/apis"
	"sigs.k8s.io/yaml"
)

// object is what the webhook does with a resource: defaults first, then validation.
type object interface {
	metav1.Object
	apis.Defaultable
	apis.Validatable
}

// newObject returns an empty object of a kind, nil for kinds that Tekton does not have.
func newObject(apiVersion, kind string) object {
	switch apiVersion + "/" + kind {
	case "tekton.dev/v1/Task":
		return &v1.Task{}
	case "tekton.dev/v1/TaskRun":
		return &v1.TaskRun{}
	case "tekton.dev/v1/Pipeline":
		return &v1.Pipeline{}
	case "tekton.dev/v1/PipelineRun":
		return &v1.PipelineRun{}
	case "tekton.dev/v1beta1/StepAction":
		return &v1beta1.StepAction{}
	}
	return nil
}

// check returns what is wrong with one document.
func check(document []byte) error {
	var about struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(document, &about); err != nil {
		return err
	}
	one := newObject(about.APIVersion, about.Kind)
	if one == nil {
		return fmt.Errorf("expected a Task, TaskRun, Pipeline or PipelineRun of tekton.dev/v1, or a StepAction of "+
			"tekton.dev/v1beta1, found %q of %q", about.Kind, about.APIVersion)
	}
	if err := yaml.UnmarshalStrict(document, one); err != nil {
		return err
	}
	// The API server makes the name before the webhook sees it.
	if one.GetName() == "" && one.GetGenerateName() != "" {
		one.SetName(one.GetGenerateName() + "made")
	}
	// As at creation: some rules hold only then.
	ctx := apis.WithinCreate(context.Background())
	one.SetDefaults(ctx)
	// Through a variable: a nil *FieldError in an error is not nil.
	if err := one.Validate(ctx); err != nil {
		return err
	}
	return nil
}

// documents returns the number of documents of a file and what is wrong with them.
func documents(content []byte) (int, []error) {
	var problems []error
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for count := 0; ; count++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return count, problems
		}
		if err == nil {
			err = check(document)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("document %d: %w", count+1, err))
		}
	}
}

func main() {
	status := 0
	for _, path := range os.Args[1:] {
		content, err := os.ReadFile(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(66)
		}
		count, problems := documents(content)
		if count == 0 {
			problems = append(problems, errors.New("expected at least one document, found none"))
		}
		for _, problem := range problems {
			fmt.Printf("%s: %v\n", path, problem)
			status = 1
		}
	}
	os.Exit(status)
}
