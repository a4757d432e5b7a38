export { Commands, serveServiceCommands } from '../../src/member/operator/commands.js'
