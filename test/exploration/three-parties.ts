export { TwoParties as ThreeParties } from './two-parties.js'
