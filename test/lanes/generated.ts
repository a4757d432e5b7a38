import fc from 'fast-check'
import { FRESH } from './lane.js'

if (!FRESH) fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: 1 })

/** fast-check, with a fixed seed in CI. */
export default fc
