module fd-broker.invalid/owner/fd-broker/clients/go

go 1.21
