export { StatusRequests } from '../../src/daemon/service/status-requests.js'
