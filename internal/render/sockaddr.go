package render

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// sockaddr gives addresses of the pod by the names that go-sockaddr's templates
// have for them, one function at a time. Its pipelines are left out: the library
// needs the program "ip" to find the default route, and 2 % of the agent's size.
func sockaddr(args ...string) (string, error) {
	words := strings.Fields(strings.Join(args, " "))
	if len(words) > 0 {
		argument := strings.Trim(strings.Join(words[1:], " "), "\"`")
		find, ok := addresses[words[0]]
		if ok && (argument != "") == strings.HasPrefix(words[0], "GetInterface") {
			return find(argument)
		}
	}
	return "", plain(`sockaddr knows GetPrivateIP, GetPrivateIPs, GetPublicIP, GetPublicIPs, and GetInterfaceIP and GetInterfaceIPs with an interface such as "eth0"`)
}

var addresses = map[string]func(argument string) (string, error){
	"GetPrivateIP":    func(string) (string, error) { return one(routed(isPrivate)) },
	"GetPrivateIPs":   func(string) (string, error) { return every(hosts(isPrivate)) },
	"GetPublicIP":     func(string) (string, error) { return one(routed(isPublic)) },
	"GetPublicIPs":    func(string) (string, error) { return every(hosts(isPublic)) },
	"GetInterfaceIP":  func(name string) (string, error) { return one(of(name, netip.Addr.IsGlobalUnicast)) },
	"GetInterfaceIPs": func(name string) (string, error) { return every(of(name, netip.Addr.IsValid)) },
}

// hostPrefix is one address of an interface, with the bits of its network.
type hostPrefix struct {
	netip.Prefix
	device string
}

// isPrivate holds for addresses that are not routed between networks but are
// between hosts (RFC 1918, 4193 and 6598).
func isPrivate(a netip.Addr) bool {
	return a.IsPrivate() || netip.MustParsePrefix("100.64.0.0/10").Contains(a)
}

func isPublic(a netip.Addr) bool { return a.IsGlobalUnicast() && !isPrivate(a) }

// hosts are the addresses that are wanted.
func hosts(wanted func(netip.Addr) bool) ([]hostPrefix, error) {
	devices, err := net.Interfaces()
	if err != nil {
		return nil, plain("the pod's interfaces cannot be listed")
	}
	var found []hostPrefix
	for _, device := range devices {
		list, err := device.Addrs()
		if err != nil {
			return nil, plain(fmt.Sprintf("the addresses of %s cannot be listed", device.Name))
		}
		for _, address := range list {
			if p, err := netip.ParsePrefix(address.String()); err == nil && wanted(p.Addr()) {
				found = append(found, hostPrefix{p, device.Name})
			}
		}
	}
	return found, nil
}

// of are the wanted addresses of one interface, those of the largest network
// first.
func of(device string, wanted func(netip.Addr) bool) ([]hostPrefix, error) {
	found, err := hosts(wanted)
	found = slices.DeleteFunc(found, func(h hostPrefix) bool { return h.device != device })
	slices.SortStableFunc(found, func(a, b hostPrefix) int {
		if size := (a.Addr().BitLen() - a.Bits()) - (b.Addr().BitLen() - b.Bits()); size != 0 {
			return -size
		}
		return a.Addr().Compare(b.Addr())
	})
	return found, err
}

// routed are those of the wanted addresses that lie on the interface with the
// default route, IPv4 first.
func routed(wanted func(netip.Addr) bool) ([]hostPrefix, error) {
	device, err := defaultDevice("/proc/net/route")
	if err != nil {
		return nil, err
	}
	found, err := hosts(wanted)
	found = slices.DeleteFunc(found, func(h hostPrefix) bool { return h.device != device })
	slices.SortStableFunc(found, func(a, b hostPrefix) int { return a.Addr().Compare(b.Addr()) })
	return found, err
}

// defaultDevice reads the kernel's table of IPv4 routes, whose lines begin with
// an interface and a destination; the default one's is zero (proc(5)).
func defaultDevice(table string) (string, error) {
	f, err := os.Open(table)
	if err != nil {
		return "", plain("the pod's routes cannot be read")
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 7 && fields[1] == "00000000" && fields[7] == "00000000" {
			return fields[0], nil
		}
	}
	return "", plain("the pod has no default route")
}

func one(found []hostPrefix, err error) (string, error) {
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0].Addr().String(), nil
}

func every(found []hostPrefix, err error) (string, error) {
	var list []string
	for _, h := range found {
		list = append(list, h.Addr().String())
	}
	return strings.Join(list, " "), err
}
