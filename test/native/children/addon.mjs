// The addon, for plain node scripts: the one of FD_BROKER_ADDON or the one that was built.
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)

export const file = require.resolve(process.env.FD_BROKER_ADDON || '../../../build/Release/fd_broker.node')
export const native = require(file)
