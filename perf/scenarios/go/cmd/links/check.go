package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"example.invalid/links/internal/rpc"
	"example.invalid/links/internal/version"
)

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "serve for a moment, keep a link by HTTP, resolve it by gRPC",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			directory, err := os.MkdirTemp("", "links")
			if err != nil {
				return err
			}
			defer os.RemoveAll(directory)
			ctx, stop := context.WithCancel(command.Context())
			defer stop()
			file := filepath.Join(directory, "links.db")
			checked := make(chan error, 1)
			err = run(ctx, settings{file, "127.0.0.1:0", "127.0.0.1:0"}, func(web, calls string) {
				go func() {
					checked <- check(ctx, web, calls)
					stop()
				}()
			})
			if err != nil {
				return err
			}
			return <-checked
		},
	}
}

func check(ctx context.Context, web, calls string) error {
	key := uuid.NewString()
	body := strings.NewReader(`{"address": "https://example.invalid/` + key + `"}`)
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+web+"/"+key, body)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	if err := answer.Body.Close(); err != nil {
		return err
	}
	client, err := grpc.NewClient(calls, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer client.Close()
	found := new(wrapperspb.StringValue)
	if err := client.Invoke(ctx, rpc.Resolve, wrapperspb.String(key), found); err != nil {
		return err
	}
	if !strings.HasSuffix(found.GetValue(), key) {
		return fmt.Errorf("kept %s, found %s", key, found.GetValue())
	}
	fmt.Printf("links revision=%d kept=%d\n", version.Revision, answer.StatusCode)
	return nil
}
