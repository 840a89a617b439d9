// Renders a chart as `helm template` does: the same template language (text/template), the same functions (sprig) and
// the same rules for values. Subcharts, hooks and look-ups in a cluster are left out.
//
// Usage: render CHART NAMESPACE < VALUES. The values, as JSON, are laid over those of the chart.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"github.com/ghodss/yaml"
)

// What templates read in Chart.yaml.
type chart struct {
	Name, Version, AppVersion string
}

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: render CHART NAMESPACE < VALUES"))
	}
	text, err := render(os.Args[1], os.Args[2])
	fail(err)
	fmt.Print(text)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func render(folder, namespace string) (string, error) {
	about, values, changes := chart{}, map[string]interface{}{}, map[string]interface{}{}
	if err := read(filepath.Join(folder, "Chart.yaml"), &about); err != nil {
		return "", err
	}
	if err := read(filepath.Join(folder, "values.yaml"), &values); err != nil {
		return "", err
	}
	if err := json.NewDecoder(os.Stdin).Decode(&changes); err != nil {
		return "", err
	}
	data := map[string]interface{}{
		"Chart":   about,
		"Values":  merge(values, changes),
		"Release": map[string]interface{}{"Name": about.Name, "Namespace": namespace},
	}
	return execute(filepath.Join(folder, "templates"), data)
}

func read(file string, into interface{}) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return yaml.UnmarshalStrict(text, into)
}

// Lays changes over values: objects are merged, all else is replaced, and null removes.
func merge(values, changes map[string]interface{}) map[string]interface{} {
	for key, change := range changes {
		below, isObject := change.(map[string]interface{})
		value, wasObject := values[key].(map[string]interface{})
		switch {
		case isObject && wasObject:
			values[key] = merge(value, below)
		case change == nil:
			delete(values, key)
		default:
			values[key] = change
		}
	}
	return values
}

// Executes all templates but those whose names begin with an underscore, which only define others.
func execute(folder string, data interface{}) (string, error) {
	all := template.New("").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	functions["toYaml"] = func(value interface{}) (string, error) {
		text, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(text), "\n"), err
	}
	functions["include"] = func(name string, data interface{}) (string, error) {
		var text strings.Builder
		err := all.ExecuteTemplate(&text, name, data)
		return text.String(), err
	}
	if _, err := all.Funcs(functions).ParseGlob(filepath.Join(folder, "*")); err != nil {
		return "", err
	}
	var documents strings.Builder
	for _, one := range all.Templates() {
		if strings.HasSuffix(one.Name(), ".yaml") {
			documents.WriteString("---\n")
			if err := one.Execute(&documents, data); err != nil {
				return "", err
			}
		}
	}
	// What Helm writes for a value that is not there.
	return strings.ReplaceAll(documents.String(), "<no value>", ""), nil
}
