// Package rpc serves the lookup of links over gRPC, with health and reflection for those who operate it.
package rpc

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"example.invalid/links/internal/links"
)

// Resolve is the full name of the one method: a link's name in, its address out.
const Resolve = "/links.v1.Links/Resolve"

// Lookup is what the service asks.
type Lookup interface {
	Get(key string) (string, error)
}

// New returns a server that is ready to be given a listener.
func New(store Lookup, options ...grpc.ServerOption) *grpc.Server {
	server := grpc.NewServer(options...)
	server.RegisterService(&description, store)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	return server
}

var description = grpc.ServiceDesc{
	ServiceName: "links.v1.Links",
	HandlerType: (*Lookup)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Resolve", Handler: handle}},
}

func handle(
	service any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor,
) (any, error) {
	wanted := new(wrapperspb.StringValue)
	if err := decode(wanted); err != nil {
		return nil, err
	}
	call := func(_ context.Context, request any) (any, error) {
		return resolve(service.(Lookup), request.(*wrapperspb.StringValue))
	}
	if intercept == nil {
		return call(ctx, wanted)
	}
	return intercept(ctx, wanted, &grpc.UnaryServerInfo{Server: service, FullMethod: Resolve}, call)
}

func resolve(store Lookup, wanted *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	address, err := store.Get(wanted.GetValue())
	switch {
	case errors.Is(err, links.ErrUnknown):
		return nil, status.Error(codes.NotFound, err.Error())
	case err != nil:
		return nil, status.Error(codes.Internal, err.Error())
	}
	return wrapperspb.String(address), nil
}
