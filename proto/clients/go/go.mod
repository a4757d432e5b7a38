module fd-broker.invalid/owner/fd-broker/proto/clients/go

go 1.21
