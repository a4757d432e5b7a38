// @ts-check
// The command as the modules that it is made of, not as the one file that is published: what is loaded beside it (watch.mjs)
// sees the same classes.
import '../../build/modules/cli/early-signals.js'
import { main } from '../../build/modules/cli/program.js'

process.exitCode = await main(process.argv.slice(2), () => {})
