// Binds a Unix path with the options (JSON) and the umask (octal) that it is given.
import { native } from './addon.mjs'

const [, , path, options, umask] = process.argv
process.umask(Number.parseInt(umask, 8))
native.bindSocket({ kind: 'unix', host: path, backlog: 1, ...JSON.parse(options) })
process.stdout.write('bound')
