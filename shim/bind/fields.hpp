// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <nanobind/nanobind.h>

#include <vector>

namespace ftl {

// A class of values that Python only reads. It has an attribute for each field, and as_dict() with all fields in order.
// as_dict() also converts nested objects of such classes, and lists of them.
template <typename T>
class Fields {
public:
    Fields(nanobind::module_ &m, const char *name) : class_(m, name), class_name_(name) {}

    template <typename Owner, typename Value>
    Fields &field(const char *name, Value Owner::*member) {
        class_.def_ro(name, member);
        names_.push_back(name);
        return *this;
    }

    // Call it after the last field.
    void end() {
        class_.def("as_dict", [names = names_](nanobind::handle self) {
            nanobind::dict dict;
            for (const char *name : names) {
                dict[name] = plain(self.attr(name));
            }
            return dict;
        });
        class_.def("__repr__", [name = class_name_](nanobind::handle self) {
            return nanobind::str(name) + nanobind::repr(self.attr("as_dict")());
        });
    }

private:
    static nanobind::object plain(const nanobind::object &value) {
        if (nanobind::hasattr(value, "as_dict")) {
            return value.attr("as_dict")();
        }
        if (!nanobind::isinstance<nanobind::list>(value)) {
            return value;
        }
        nanobind::list list;
        for (const nanobind::handle item : value) {
            list.append(plain(nanobind::borrow(item)));
        }
        return list;
    }

    nanobind::class_<T> class_;
    const char *class_name_;
    std::vector<const char *> names_;
};

}  // namespace ftl
